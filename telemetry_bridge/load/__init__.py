"""A load of real devices' messages, for people who want to know what their own broker and database take."""
