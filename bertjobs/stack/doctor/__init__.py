"""What `bertjobs doctor` looks at; `examine.py` calls the rest."""
