"""For the tests of add-ons: `taddons` runs one without a gateway, `tflow` and `tutils` make flows and messages."""
