"""What picture files hold beside the pixels: metadata, colour space, frames and pages."""
