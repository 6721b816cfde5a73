"""What a finished run can do: predict, be evaluated, show where its cost is."""
