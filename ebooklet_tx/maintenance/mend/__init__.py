"""Mending a remote from what one machine has: lost and damaged objects are written anew."""
