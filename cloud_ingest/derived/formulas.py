"""Feels-like temperatures: the published formulas, as numpy functions of whole columns, and where they hold.

Each takes arrays of one shape and returns degrees Celsius; outside its domain what it returns means nothing, and
`holds` says so. NaN in, NaN out. Shapes: (n,). Units: temperature in degrees Celsius, relative humidity in percent,
wind speed in metres per second at 10 m.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]

_KMH_PER_MS: Final = 3.6
_SIMPLE_BELOW_FAHRENHEIT: Final = 80.0


def wet_bulb(temperature: Floats, humidity: Floats) -> Floats:
    """The wet-bulb temperature at sea level.

    R. Stull, "Wet-Bulb Temperature from Relative Humidity and Air Temperature", J. Appl. Meteor. Climatol. 50 (2011),
    equation 1, https://doi.org/10.1175/JAMC-D-11-0143.1. Its error there is -1 to +0.65 degrees.
    """
    return np.asarray(
        temperature * np.arctan(0.151977 * np.sqrt(humidity + 8.313659))
        + np.arctan(temperature + humidity)
        - np.arctan(humidity - 1.676331)
        + 0.00391838 * humidity**1.5 * np.arctan(0.023101 * humidity)
        - 4.686035
    )


def wet_bulb_holds(temperature: Floats, humidity: Floats) -> Booleans:
    """Where Stull fitted his formula: -20 to 50 degrees and 5 to 99 %. What is both cold and dry he excepts roughly."""
    return np.asarray((temperature >= -20) & (temperature <= 50) & (humidity >= 5) & (humidity <= 99))


def kma_summer(temperature: Floats, humidity: Floats) -> Floats:
    """The feels-like temperature of the Korea Meteorological Administration for May to September, in use since 2022.

    KMA, open data portal, "체감온도(여름철)": 33 degrees at 50 % feel like 32.5.
    """
    wet = wet_bulb(temperature, humidity)
    return np.asarray(
        -0.2442 + 0.55399 * wet + 0.45535 * temperature - 0.0022 * wet**2 + 0.00278 * wet * temperature + 3.0
    )


def wind_chill(temperature: Floats, wind: Floats) -> Floats:
    """The wind chill of JAG/TI (2001), which KMA uses for October to April: -5 degrees in 20 km/h feel like -11.6.

    Joint Action Group for Temperature Indices; the same as that of the National Weather Service and of Environment
    Canada, https://www.weather.gov/media/epz/wxcalc/windChill.pdf.
    """
    factor = (wind * _KMH_PER_MS) ** 0.16
    return np.asarray(13.12 + 0.6215 * temperature - 11.37 * factor + 0.3965 * factor * temperature)


def wind_chill_holds(temperature: Floats, wind: Floats) -> Booleans:
    """Where KMA gives one: at 10 degrees or less, and 1.3 m/s or more."""
    return np.asarray((temperature <= 10) & (wind >= 1.3))


def heat_index(temperature: Floats, humidity: Floats) -> Floats:
    """The heat index of the National Weather Service: Rothfusz' regression (SR 90-23) with its two adjustments.

    https://www.wpc.ncep.noaa.gov/html/heatindex_equation.shtml
    """
    t, rh = temperature * 1.8 + 32, humidity
    index = (
        -42.379
        + 2.04901523 * t
        + 10.14333127 * rh
        - 0.22475541 * t * rh
        - 6.83783e-3 * t**2
        - 5.481717e-2 * rh**2
        + 1.22874e-3 * t**2 * rh
        + 8.5282e-4 * t * rh**2
        - 1.99e-6 * t**2 * rh**2
    )
    dry = (rh < 13) & (t >= 80) & (t <= 112)
    index = index - np.where(dry, (13 - rh) / 4 * np.sqrt(np.clip(17 - np.abs(t - 95), 0, None) / 17), 0)
    humid = (rh > 85) & (t >= 80) & (t <= 87)
    index = index + np.where(humid, (rh - 85) / 10 * (87 - t) / 5, 0)
    return np.asarray((index - 32) / 1.8)


def heat_index_holds(temperature: Floats, humidity: Floats) -> Booleans:
    """Where the regression is meant to be used: its simple form, averaged with the temperature, gives 80 °F or more.

    What it was fitted to (Steadman, "The Assessment of Sultriness", 1979) ends at 50 degrees.
    """
    t = temperature * 1.8 + 32
    simple = 0.5 * (t + 61.0 + (t - 68.0) * 1.2 + humidity * 0.094)
    warm = ((simple + t) / 2 >= _SIMPLE_BELOW_FAHRENHEIT) & (temperature <= 50)
    return np.asarray(warm & (humidity >= 0) & (humidity <= 100))
