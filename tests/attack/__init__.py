"""What an outside attack found, each with the test that fails without its fix; numbers are those of the findings."""
