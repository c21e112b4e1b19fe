"""Who may do what: a family of deciders and the table of their names."""
