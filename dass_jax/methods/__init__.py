"""Papers as short compositions of the axes: relaxation, sparsity, update. A method knows networks as functions only."""
