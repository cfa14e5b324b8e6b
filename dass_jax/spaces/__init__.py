"""Search spaces: networks whose operations are weighted, and how a genotype is read off the weights."""
