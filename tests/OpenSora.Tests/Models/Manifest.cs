using System.Globalization;
using OpenSora.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Models;

/// <summary>Names and shapes of a published checkpoint's tensors: a file of tests/Data/manifests.</summary>
internal static class Manifest
{
    /// <summary>The checkpoint's tensors by name.</summary>
    public static Dictionary<string, long[]> Read(string manifest)
    {
        var rows = Rows(manifest);
        rows[0].ShouldBe(["name", "dtype", "shape"]);
        return rows.Skip(1).ToDictionary(row => row[0], row => Shape(row[2]), StringComparer.Ordinal);
    }

    /// <summary>The rows of a table, the line of titles first, without comments.</summary>
    public static List<string[]> Rows(string table) =>
        [.. File.ReadLines(TestFiles.Data("manifests", table + ".tsv")).Where(line => !line.StartsWith('#')).Select(line => line.Split('\t'))];

    /// <summary>A shape as the tables spell it: <c>1152x4x2x2</c>.</summary>
    public static long[] Shape(string text) => [.. text.Split('x').Select(size => long.Parse(size, CultureInfo.InvariantCulture))];

    /// <summary>Makes an architecture in full size without memory for its parameters and compares its parameters and buffers with a
    /// checkpoint's.</summary>
    /// <param name="manifest">The checkpoint.</param>
    /// <param name="make">Makes the model, with <c>initialize: false</c>.</param>
    /// <param name="rename">The model's name of a tensor of the checkpoint, null for one that has no place in the model; null: the names are
    /// equal.</param>
    public static void ShouldFit(string manifest, Func<nn.Module> make, Func<string, string?>? rename = null)
    {
        var published = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach (var (name, shape) in Read(manifest))
        {
            if ((rename is null ? name : rename(name)) is { } renamed)
            {
                published.TryAdd(renamed, Text(shape)).ShouldBeTrue($"{name} is the second one that becomes {renamed}");
            }
        }

        var before = TensorCount.Now;
        using (Unallocated(make, out var model))
        {
            foreach (var (name, tensor) in model.state_dict())
            {
                published.Remove(name, out var shape).ShouldBeTrue($"{manifest} has no {name}");
                Text(tensor.shape).ShouldBe(shape, name);
            }
            published.Keys.ShouldBeEmpty($"the model lacks these of {manifest}");
        }
        TensorCount.ShouldBe(before);
    }

    /// <summary>Creates a model without memory for its parameters; the caller disposes of it.</summary>
    public static TModel Unallocated<TModel>(Func<TModel> make, out TModel model)
        where TModel : nn.Module
    {
        using (Parameters.ShapesOnly())
        {
            model = make();
        }

        model.parameters().ShouldAllBe(parameter => parameter.device_type == DeviceType.META);
        return model;
    }

    private static string Text(long[] shape) => string.Join('x', shape);
}
