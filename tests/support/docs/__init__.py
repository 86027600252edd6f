"""How the documentation is made and checked: tables from the code, pictures and figures from recorded runs."""
