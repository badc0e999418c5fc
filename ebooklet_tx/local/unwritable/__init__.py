"""Local files in places that can't be written: read without a change beside them."""
