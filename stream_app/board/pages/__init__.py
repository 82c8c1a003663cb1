"""One module a page: it reads the model and returns what the page's template shows."""
