"""A trained sparse network made small and fast: its graph, exact compaction, sparse execution and file formats.

    graph = rewrite.simplified(trace.trace(forward, params, batch_stats, image_shape))   the network, BN folded
    small = compact.compact(graph)                                     without what cannot reach or change the logits

`evaluate` is the graph's definition in NumPy, `xla` and `sparse` run it, `formats` write and read it.
"""
