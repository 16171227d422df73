"""What models say: the paper's orders, LogGP, scaling to more ranks than there are."""
