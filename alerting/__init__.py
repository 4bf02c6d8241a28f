"""Thresholds → alert transitions → published alerts; operators' acts on them."""
