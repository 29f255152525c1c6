using OpenSora.Models.Layers;
using OpenSora.Runtime;
using TorchSharp;
using TorchSharp.Modules;
using static OpenSora.Models.Layers.Functional;
using static OpenSora.Models.VaeActivations;
using static OpenSora.Runtime.Scopes;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Activations of the autoencoders. Their images are the largest tensors of a generation, so they are released early, and overwritten if no
/// gradients are recorded.</summary>
internal static class VaeActivations
{
    /// <summary>Applies SiLU, in place if gradients are disabled; <paramref name="x"/> must not be needed afterwards.</summary>
    public static Tensor Activate(Tensor x) => nn.functional.silu(x, inplace: !is_grad_enabled());

    /// <summary>Applies SiLU and a convolution, and disposes of <paramref name="x"/>.</summary>
    public static Tensor ActivatedConvolution(Tensor x, nn.Module<Tensor, Tensor> convolution)
    {
        var active = Activate(x);
        var y = convolution.call(active);
        active.Dispose();
        x.Dispose();
        return y;
    }
}

/// <summary>Maps images to the mean and log variance of their latents. Each level of residual blocks except the last halves height and
/// width.</summary>
internal sealed class VaeEncoder : nn.Module<Tensor, Tensor>
{
    public readonly Conv2d conv_in;
    public readonly BlockList<VaeLevel> down_blocks;
    public readonly VaeMiddle mid_block;
    public readonly GroupNorm conv_norm_out;
    public readonly Conv2d conv_out;

    public VaeEncoder(AutoencoderKLConfig config)
        : base(nameof(VaeEncoder))
    {
        var (channels, groups) = (config.BlockOutChannels, config.NormNumGroups);
        conv_in = new Conv2d(config.InChannels, channels[0], 3, padding: 1);
        down_blocks = new BlockList<VaeLevel>(
            channels
                .Select(
                    (outputs, i) =>
                        new VaeLevel(
                            channels[Math.Max(0, i - 1)],
                            outputs,
                            config.LayersPerBlock,
                            groups,
                            i < channels.Count - 1 ? VaeResize.Down : VaeResize.None
                        )
                )
                .ToArray()
        );
        mid_block = new VaeMiddle(channels[^1], groups);
        conv_norm_out = new GroupNorm(channels[^1], groups);
        conv_out = new Conv2d(channels[^1], 2L * config.LatentChannels, 3, padding: 1);
        RegisterComponents();
    }

    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        x = conv_in.call(x);
        foreach (var block in down_blocks)
        {
            var next = block.call(x);
            x.Dispose();
            x = next;
        }

        return conv_out.call(Activate(conv_norm_out.call(mid_block.call(x)))).MoveToOuterDisposeScope();
    }
}

/// <summary>Maps latents to images. Each level of residual blocks except the last doubles height and width.</summary>
internal sealed class VaeDecoder : nn.Module<Tensor, Tensor>
{
    public readonly Conv2d conv_in;
    public readonly VaeMiddle mid_block;
    public readonly BlockList<VaeLevel> up_blocks;
    public readonly GroupNorm conv_norm_out;
    public readonly Conv2d conv_out;

    public VaeDecoder(AutoencoderKLConfig config)
        : base(nameof(VaeDecoder))
    {
        var (channels, groups) = (config.BlockOutChannels.Reverse().ToArray(), config.NormNumGroups);
        conv_in = new Conv2d(config.LatentChannels, channels[0], 3, padding: 1);
        mid_block = new VaeMiddle(channels[0], groups);
        up_blocks = new BlockList<VaeLevel>(
            channels
                .Select(
                    (outputs, i) =>
                        new VaeLevel(
                            channels[Math.Max(0, i - 1)],
                            outputs,
                            config.LayersPerBlock + 1,
                            groups,
                            i < channels.Length - 1 ? VaeResize.Up : VaeResize.None
                        )
                )
                .ToArray()
        );
        conv_norm_out = new GroupNorm(channels[^1], groups);
        conv_out = new Conv2d(channels[^1], config.OutChannels, 3, padding: 1);
        RegisterComponents();
    }

    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        x = mid_block.call(conv_in.call(x));
        foreach (var block in up_blocks)
        {
            var next = block.call(x);
            x.Dispose();
            x = next;
        }
        return conv_out.call(Activate(conv_norm_out.call(x))).MoveToOuterDisposeScope();
    }
}

internal enum VaeResize
{
    None,
    Down,
    Up,
}

/// <summary>Residual blocks at one resolution, optionally followed by downsampling or upsampling.</summary>
internal sealed class VaeLevel : nn.Module<Tensor, Tensor>
{
    public readonly ModuleList<VaeResidual> resnets;
    public readonly ModuleList<VaeDownsample>? downsamplers;
    public readonly ModuleList<VaeUpsample>? upsamplers;

    public VaeLevel(int inputs, int outputs, int layers, int groups, VaeResize resize)
        : base(nameof(VaeLevel))
    {
        resnets = nn.ModuleList(Enumerable.Range(0, layers).Select(i => new VaeResidual(i == 0 ? inputs : outputs, outputs, groups)).ToArray());
        downsamplers = resize == VaeResize.Down ? nn.ModuleList(new VaeDownsample(outputs)) : null;
        upsamplers = resize == VaeResize.Up ? nn.ModuleList(new VaeUpsample(outputs)) : null;
        RegisterComponents();
    }

    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        var input = x;
        foreach (var resnet in resnets)
        {
            var next = resnet.call(x);
            if (!ReferenceEquals(x, input))
            {
                x.Dispose();
            }

            x = next;
        }

        return (downsamplers?[0].call(x) ?? upsamplers?[0].call(x) ?? x).MoveToOuterDisposeScope();
    }
}

/// <summary>The block at the lowest resolution: a residual block, single-head attention over all positions, and another residual block.</summary>
internal sealed class VaeMiddle : nn.Module<Tensor, Tensor>
{
    public readonly ModuleList<VaeAttention> attentions;
    public readonly ModuleList<VaeResidual> resnets;

    public VaeMiddle(int channels, int groups)
        : base(nameof(VaeMiddle))
    {
        attentions = nn.ModuleList(new VaeAttention(channels, groups));
        resnets = nn.ModuleList(new VaeResidual(channels, channels, groups), new VaeResidual(channels, channels, groups));
        RegisterComponents();
    }

    public override Tensor forward(Tensor x) => Scoped(() => resnets[1].call(attentions[0].call(resnets[0].call(x))));
}

/// <summary>A residual block: group normalization, SiLU and convolution, applied twice, plus a shortcut connection.</summary>
internal sealed class VaeResidual : nn.Module<Tensor, Tensor>
{
    public readonly GroupNorm norm1;
    public readonly Conv2d conv1;
    public readonly GroupNorm norm2;
    public readonly Conv2d conv2;
    public readonly Conv2d? conv_shortcut;

    public VaeResidual(int inputs, int outputs, int groups)
        : base(nameof(VaeResidual))
    {
        norm1 = new GroupNorm(inputs, groups);
        conv1 = new Conv2d(inputs, outputs, 3, padding: 1);
        norm2 = new GroupNorm(outputs, groups);
        conv2 = new Conv2d(outputs, outputs, 3, padding: 1);
        conv_shortcut = inputs == outputs ? null : new Conv2d(inputs, outputs, 1);
        RegisterComponents();
    }

    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        var h = ActivatedConvolution(norm1.call(x), conv1);
        var normed = norm2.call(h);
        h.Dispose();
        h = ActivatedConvolution(normed, conv2);
        return AddTo(h, (conv_shortcut?.call(x) ?? x).In(h.dtype)).MoveToOuterDisposeScope();
    }
}

internal sealed class VaeAttention : nn.Module<Tensor, Tensor>
{
    public readonly GroupNorm group_norm;
    public readonly Linear to_q;
    public readonly Linear to_k;
    public readonly Linear to_v;
    public readonly ModuleList<Linear> to_out;

    public VaeAttention(int channels, int groups)
        : base(nameof(VaeAttention))
    {
        group_norm = new GroupNorm(channels, groups);
        to_q = new Linear(channels, channels);
        to_k = new Linear(channels, channels);
        to_v = new Linear(channels, channels);
        to_out = nn.ModuleList(new Linear(channels, channels));
        RegisterComponents();
    }

    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        var tokens = group_norm.call(x).flatten(2).transpose(1, 2); // [n, positions, channels]
        var y = DotProduct.Attend(to_q.call(tokens), to_k.call(tokens), to_v.call(tokens), 1 / Math.Sqrt(x.shape[1]));
        return x.Plus(to_out[0].call(y).transpose(1, 2).reshape(x.shape)).MoveToOuterDisposeScope();
    }
}

/// <summary>Halves height and width with a strided convolution that is padded on the right and bottom only.</summary>
internal sealed class VaeDownsample : nn.Module<Tensor, Tensor>
{
    public readonly Conv2d conv;

    public VaeDownsample(int channels)
        : base(nameof(VaeDownsample))
    {
        conv = new Conv2d(channels, channels, 3, stride: 2);
        RegisterComponents();
    }

    public override Tensor forward(Tensor x) => Scoped(() => conv.call(nn.functional.pad(x, [0, 1, 0, 1], PaddingModes.Constant)));
}

/// <summary>Doubles height and width by nearest-neighbor interpolation, followed by a convolution.</summary>
internal sealed class VaeUpsample : nn.Module<Tensor, Tensor>
{
    public readonly Conv2d conv;

    public VaeUpsample(int channels)
        : base(nameof(VaeUpsample))
    {
        conv = new Conv2d(channels, channels, 3, padding: 1);
        RegisterComponents();
    }

    public override Tensor forward(Tensor x) =>
        Scoped(() => conv.call(nn.functional.interpolate(x, scale_factor: [2, 2], mode: InterpolationMode.Nearest)));
}
