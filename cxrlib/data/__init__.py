"""Studies, radiographs and tables: read, checked and split by patient."""
