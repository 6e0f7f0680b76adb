"""What can be measured of edited views: arrays in, numbers out."""
