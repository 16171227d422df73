"""Rendering of the pages: what stands between a page's markers comes from the code or from files of results."""
