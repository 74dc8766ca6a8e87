"""The steps that give single patches bits of their own."""
