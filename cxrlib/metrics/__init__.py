"""What scores are worth, each number with an interval over patients."""
