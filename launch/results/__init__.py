"""What runs came to: scores, tables, pictures and videos."""
