"""How often segments are read: decaying rates, in bounded memory, and what is promoted by them. Pure."""
