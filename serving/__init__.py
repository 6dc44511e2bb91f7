"""What happens to a request, and who decides where it goes."""
