"""Ways to protect an envelope, one package each. Siblings never import each other."""
