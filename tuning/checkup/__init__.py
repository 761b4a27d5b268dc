"""What `python -m tuning.doctor` looks at, a module for each kind of thing; each gives findings and changes nothing."""
