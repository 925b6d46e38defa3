"""Data sets, corruptions, and the demo story; everything it does, it does through SQL."""
