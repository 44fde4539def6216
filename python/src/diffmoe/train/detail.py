"""The detail head: small convolutions at full resolution that refine a predicted image.

A transformer predicts every patch on its own, so small steps remain along patch borders.  Three 3x3 convolutions reach
3 pixels across them; they also see the noised image, which near the end of sampling already has the fine detail.
Convolutions are the same everywhere, so without help they cannot tell a patch border from an edge of the image.  With
``detail_phase`` they also see the phase: for rows and for columns, the place of the pixel in its patch, from -1 to 1.
(After DiP, arXiv 2511.18822.)  The last layer starts at zero, so a head added to a trained model initially changes
nothing."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class DetailHead(nn.Module):
    """x + conv_out(SiLU(conv_mid(SiLU(conv_in(concat(x, z, t, phase of the row, phase of the column))))))"""

    def __init__(self, config):
        super().__init__()
        in_channels, channels = config.in_channels, config.detail_channels
        self.patch_size = config.patch_size if config.detail_phase else 0  # 0: without the phases
        self.conv_in = nn.Conv2d(2 * in_channels + 1 + 2 * config.detail_phase, channels, 3, padding=1)
        self.conv_mid = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_out = nn.Conv2d(channels, in_channels, 3, padding=1)

    def reset_parameters(self):
        for conv in (self.conv_in, self.conv_mid):
            nn.init.kaiming_normal_(conv.weight)
            nn.init.zeros_(conv.bias)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    @torch.no_grad()
    def take(self, source):
        """Start as another head, which may have fewer channels and no phases; what is new has no effect yet."""
        for name in ("conv_in", "conv_mid", "conv_out"):
            mine, theirs = getattr(self, name), getattr(source, name)
            o, i = theirs.weight.shape[:2]
            if o > mine.weight.shape[0] or i > mine.weight.shape[1]:
                raise ValueError(f"detail_head.{name}: {tuple(theirs.weight.shape)} in the file does not fit into "
                                 f"{tuple(mine.weight.shape)} of the run")
            mine.weight[:o].zero_()
            mine.weight[:o, :i].copy_(theirs.weight)
            mine.bias[:o].copy_(theirs.bias)

    def phases(self, x):
        """Phases of rows and columns, each [B, 1, H, W]: (2 (i mod p) + 1) / p - 1 at pixel i; [] without them."""
        if not self.patch_size:
            return []
        B, _, H, W = x.shape
        row, column = ((2 * (torch.arange(n, device=x.device) % self.patch_size) + 1) / self.patch_size - 1 for n in (H, W))
        return [row[:, None].expand(B, 1, H, W), column.expand(B, 1, H, W)]

    def forward(self, x, z, t):
        """x: the image predicted by the transformer, z: the noised image it was given, both [B, C, H, W]; t [B]."""
        with torch.autocast(x.device.type, enabled=False):  # differences of x and z are small near t = 1
            x, z = x.float(), z.float()
            plane = t.float()[:, None, None, None].expand(-1, 1, *x.shape[2:])
            planes = [x, z, plane, *self.phases(x)]
            h = F.silu(self.conv_in(torch.cat(planes, dim=1)))
            return x + self.conv_out(F.silu(self.conv_mid(h)))
