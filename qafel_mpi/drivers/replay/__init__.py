"""A run done again from its trace, bit for bit: what it recorded, what is trained when, and what is compared."""
