"""What a source tree needs before it can run: environments, programs, a demonstration. No part of what is installed."""
