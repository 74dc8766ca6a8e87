"""The steps of a search, and what it knows on the way."""
