"""One graph-to-graph step a file. A recipe (graphs/recipes.py) is a tuple of them."""
