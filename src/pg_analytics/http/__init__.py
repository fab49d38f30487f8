"""The HTTP ground rules that every endpoint shares: envelope, parameters, bodies, authentication. No feature."""
