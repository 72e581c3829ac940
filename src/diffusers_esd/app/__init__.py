"""The app: `diffusers-esd ui`. Each of its actions is a call of the public interface, which it shows as code."""
