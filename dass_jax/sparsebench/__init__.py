"""A table of sparse networks: many cells of a search space, each trained dense and pruned. docs/sparsebench.md."""
