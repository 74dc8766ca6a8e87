"""The steps that make a proved file of an allocation: plan, build, measure, prove, publish."""
