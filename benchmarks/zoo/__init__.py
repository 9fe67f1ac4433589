"""Models of many libraries, put through a default conversion; see ``__main__.py``."""
