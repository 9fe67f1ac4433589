"""Target space against the strongest optimizers in weight space; ``__main__.py`` says how."""
