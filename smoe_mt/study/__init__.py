"""Studies: systems x seeds on one text, trained, evaluated and compared by one command."""
