"""What is kept from one untangling to the next."""
