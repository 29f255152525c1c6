using System.IO.Compression;
using OpenSora.Torch;
using static TorchSharp.torch;

namespace OpenSora.TorchTests;

/// <summary>Code that builds with this binding must build with TorchSharp too.</summary>
public sealed class SurfaceTests
{
    private const string Listing = "TorchSharp-0.107.0.txt.gz";

    [Fact]
    public void Everything_in_TorchSharps_namespaces_is_in_TorchSharp_with_the_same_signature()
    {
        var theirs = Theirs();
        var ours = ApiSurface.Of(typeof(Tensor).Assembly, type => (type.Namespace + ".").StartsWith("TorchSharp.", StringComparison.Ordinal));
        var other = ours.Where(line => !theirs.Contains(line)).ToList();
        other.ShouldBeEmpty($"{other.Count} members differ from TorchSharp 0.107.0:{Environment.NewLine}{string.Join(Environment.NewLine, other)}");
    }

    [Fact]
    public void Everything_else_stands_in_the_project_s_own_namespace()
        => typeof(Tensor).Assembly.GetExportedTypes().Select(type => type.Namespace).Distinct(StringComparer.Ordinal)
            .Except(["OpenSora.Torch", "TorchSharp", "TorchSharp.Modules", "TorchSharp.Utils"], StringComparer.Ordinal).ShouldBeEmpty();

    [Fact]
    public void The_comparison_notices_a_difference()
    {
        var lines = ApiSurface.Of(typeof(Sample).Assembly, type => type == typeof(Sample)).ToList();
        lines.ShouldBe([
            "OpenSora.TorchTests.Sample : class",
            "OpenSora.TorchTests.Sample.Item[int i] -> int get",
            "OpenSora.TorchTests.Sample.Twice<T>(long? x, double eps = 1E-05, params int[] rest) -> System.Collections.Generic.List<T> static",
            "OpenSora.TorchTests.Sample.new()",
        ]);
        lines.ShouldAllBe(line => !Theirs().Contains(line));
    }

    [Fact]
    public void The_listing_is_whole() => Theirs().Count.ShouldBe(5527);

    private static HashSet<string> Theirs()
    {
        using var file = typeof(SurfaceTests).Assembly.GetManifestResourceStream(Listing)!;
        using var text = new StreamReader(new GZipStream(file, CompressionMode.Decompress));
        return text.ReadToEnd().Split('\n', StringSplitOptions.RemoveEmptyEntries).ToHashSet(StringComparer.Ordinal);
    }
}

public class Sample
{
    public int this[int i] => i;

    public static List<T> Twice<T>(long? x, double eps = 1e-5, params int[] rest) => new((int)(x ?? rest.Length));
}
