"""From detector signals to arrays and tables."""
