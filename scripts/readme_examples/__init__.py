"""The documented examples of ebooklet, each a small function that checks what it is documented to do."""
