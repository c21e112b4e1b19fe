"""Files of rows: tables, and lines of JSON."""
