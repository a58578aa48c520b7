"""Compiled loops over the points of clouds; a row of zeros is padding (see `run_rows`)."""

import numpy as np
from numba import njit

__all__ = ["farthest_rows", "project_rows"]


@njit(cache=True)
def _is_padding(point):
    n_zeros = 0
    for value in point:
        n_zeros += value == 0.0
    return n_zeros == len(point)


@njit(nogil=True, cache=True, error_model="numpy")
def farthest_rows(clouds, chosen, columns):
    """Farthest-point sampling: each further point is the farthest from those chosen before.

    The first is the farthest from the mean.

    Parameters
    ----------
    clouds : ndarray of shape (n, P, F)
    chosen : bool ndarray of shape (n, P)
        Set to True where a point is chosen.
    columns : ndarray of shape (n_coordinates + 1,)
        The columns of the coordinates, after the number of points to choose.
    """
    n_points = int(columns[0])
    coordinates = columns[1:]
    for i in range(len(clouds)):
        cloud = clouds[i]
        nearest = np.empty(len(cloud))
        mean = np.zeros(len(coordinates))
        n_present = 0
        for p in range(len(cloud)):
            nearest[p] = -1.0
            chosen[i, p] = False
            if not _is_padding(cloud[p]):
                nearest[p] = np.inf
                n_present += 1
                for k in range(len(coordinates)):
                    mean[k] += cloud[p, int(coordinates[k])]
        mean /= max(n_present, 1)
        here = mean
        for step in range(min(n_points, n_present)):
            best = -1.0
            place = -1
            for p in range(len(cloud)):
                if nearest[p] >= 0.0:
                    distance = 0.0
                    for k in range(len(coordinates)):
                        distance += (cloud[p, int(coordinates[k])] - here[k]) ** 2
                    if step == 1 or distance < nearest[p]:
                        # The mean is no chosen point: its distances count for the first only.
                        nearest[p] = distance
                    if nearest[p] > best:
                        best = nearest[p]
                        place = p
            chosen[i, place] = True
            nearest[place] = -1.0
            here = np.empty(len(coordinates))
            for k in range(len(coordinates)):
                here[k] = cloud[place, int(coordinates[k])]


@njit(nogil=True, cache=True, error_model="numpy")
def project_rows(clouds, images, planes, limits, charge, statistic):
    """Histograms of points in planes, or in voxels.

    Parameters
    ----------
    clouds : ndarray of shape (n, P, F)
    images : ndarray of shape (n, n_planes, n_cells)
        Set to the histograms; cells of the last axis in C order.
    planes : ndarray of shape (n_planes, n_axes, 3)
        For each axis of a plane its column, its number of bins and the stride of its cells.
    limits : ndarray of shape (F, 2)
        Lowest and highest value inside; infinite for columns that do not matter.
    charge : int
        Column of the charge; -1 for none, when points weigh one.
    statistic : int
        0 for sums, 1 for counts, 2 for maxima.
    """
    n_axes = planes.shape[1]
    # Sums of 32-bit charges are exact in 64 bits, but for the rarest: they know no order.
    cells = np.empty(images.shape[1:])
    for i in range(len(clouds)):
        cells[:] = -np.inf if statistic == 2 else 0.0
        for point in clouds[i]:
            if _is_padding(point):
                continue
            inside = True
            for f in range(len(point)):
                inside = inside and limits[f, 0] <= point[f] <= limits[f, 1]
            if not inside:
                continue
            value = 1.0 if charge < 0 or statistic == 1 else point[charge]
            for c in range(len(planes)):
                cell = 0
                for a in range(n_axes):
                    column, n_bins = int(planes[c, a, 0]), int(planes[c, a, 1])
                    low, high = limits[column]
                    # The last bin contains its upper edge.
                    bin_ = min(int((point[column] - low) / (high - low) * n_bins), n_bins - 1)
                    cell += bin_ * int(planes[c, a, 2])
                if statistic == 2:
                    cells[c, cell] = max(cells[c, cell], value)
                else:
                    cells[c, cell] += value
        for c in range(len(planes)):
            for cell in range(images.shape[2]):
                images[i, c, cell] = cells[c, cell] if cells[c, cell] > -np.inf else 0.0
