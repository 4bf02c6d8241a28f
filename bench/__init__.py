"""Measures the product as shipped beside yardsticks of the same run (`make bench`)."""
