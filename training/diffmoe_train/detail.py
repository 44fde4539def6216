"""The detail head: small convolutions at full resolution that refine a predicted image.

A transformer predicts every patch on its own, so small steps remain along patch borders.  Three 3x3 convolutions reach
3 pixels across them; they also see the noised image, which near the end of sampling already has the fine detail.
(After DiP, arXiv 2511.18822.)  The last layer starts at zero, so a head added to a trained model initially changes
nothing."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class DetailHead(nn.Module):
    """x + conv_out(SiLU(conv_mid(SiLU(conv_in(concat(x, z, t))))))."""

    def __init__(self, in_channels, channels):
        super().__init__()
        self.conv_in = nn.Conv2d(2 * in_channels + 1, channels, 3, padding=1)
        self.conv_mid = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_out = nn.Conv2d(channels, in_channels, 3, padding=1)

    def reset_parameters(self):
        for conv in (self.conv_in, self.conv_mid):
            nn.init.kaiming_normal_(conv.weight)
            nn.init.zeros_(conv.bias)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, x, z, t):
        """x: the image predicted by the transformer, z: the noised image it was given, both [B, C, H, W]; t [B]."""
        with torch.autocast(x.device.type, enabled=False):  # differences of x and z are small near t = 1
            x, z = x.float(), z.float()
            plane = t.float()[:, None, None, None].expand(-1, 1, *x.shape[2:])
            h = F.silu(self.conv_in(torch.cat([x, z, plane], dim=1)))
            return x + self.conv_out(F.silu(self.conv_mid(h)))
