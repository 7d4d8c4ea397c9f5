"""The files and coordinates of the field, without a model: FASTA, intervals, windows, labelled tables, genes, VCF."""
