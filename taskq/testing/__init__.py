"""What tests of taskq, of its backends and of programs that use it stand on."""
