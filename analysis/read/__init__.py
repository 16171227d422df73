"""From traces and benchmark files to rows and frames."""
