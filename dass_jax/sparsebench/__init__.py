"""A table of sparse networks: many cells of NAS-Bench-201, each trained dense and pruned. docs/sparsebench.md."""
