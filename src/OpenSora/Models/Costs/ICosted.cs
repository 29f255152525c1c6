using System.Runtime.CompilerServices;
using OpenSora.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>A network of this library that can compute in advance what a call without gradients costs.</summary>
internal interface ICosted
{
    /// <summary>Computes the cost of one call: of <see cref="IVideoTransformer.Denoise"/>, <see cref="IVideoAutoencoder.Decode"/> or
    /// <see cref="ITextEncoder.Encode"/>.</summary>
    NetworkCost Cost(CallSize size);
}

/// <summary>The size of the input of a network.</summary>
/// <param name="Batch">The number of videos or prompts.</param>
/// <param name="Frames">The number of latent frames.</param>
/// <param name="Height">The number of latent rows.</param>
/// <param name="Width">The number of latent columns.</param>
/// <param name="Tokens">The number of tokens of a text.</param>
internal readonly record struct CallSize(long Batch, long Frames = 1, long Height = 1, long Width = 1, long Tokens = 0);

/// <summary>The cost of a call.</summary>
/// <param name="Flops">The operations.</param>
/// <param name="Bytes">The maximum memory of the tensors that exist during the call in addition to the weights, with its result and, for a text or a
/// transformer, its input.</param>
internal readonly record struct NetworkCost(FlopEstimate Flops, double Bytes)
{
    /// <summary>Gets the number of bytes of a value in the data type in which the layers of a network compute.</summary>
    public static int BytesOf(nn.Module network) =>
        network.modules().OfType<IComputeLayer>().FirstOrDefault()?.ComputeType is ScalarType.BFloat16 or ScalarType.Float16 ? 2 : 4;

    /// <summary>Gets the memory of the parameters and buffers of a network in bytes; 0 for a network that is not a module.</summary>
    public static double Weights(object? network) =>
        network is nn.Module module ? module.parameters().Concat(module.buffers()).Sum(tensor => (double)tensor.numel() * tensor.ElementSize) : 0;

    /// <summary>Gets the memory of the parameters of the encoder of an autoencoder that are mapped from a file, in bytes. They stay in the file if
    /// only
    /// the decoder is used.</summary>
    public static double MappedEncoder(IVideoAutoencoder autoencoder) =>
        autoencoder is nn.Module module
            ? module
                .named_parameters()
                .Where(named => named.name.StartsWith("encoder.", StringComparison.Ordinal) && Mapped.TryGetValue(named.parameter, out _))
                .Sum(named => (double)named.parameter.numel() * named.parameter.ElementSize)
            : 0;

    /// <summary>Records that the values of a tensor are those of a mapped file.</summary>
    public static void MarkMapped(Tensor tensor) => Mapped.AddOrUpdate(tensor, Mark);

    private static readonly ConditionalWeakTable<Tensor, object> Mapped = [];
    private static readonly object Mark = new();
}
