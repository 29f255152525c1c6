using System.Reflection.Metadata;
using System.Reflection.PortableExecutable;
using OpenSora.Generation;

namespace OpenSora.Tests;

/// <summary>How many public types each namespace has. A new one needs a reason; then the number here grows with it.</summary>
public class PublicTypesTests
{
    [Theory]
    [InlineData("Microsoft.Extensions.DependencyInjection", 1)]
    [InlineData("OpenSora.Diffusion", 15)]
    [InlineData("OpenSora.Distributed", 5)]
    [InlineData("OpenSora.Generation", 15)]
    [InlineData("OpenSora.Media", 8)]
    [InlineData("OpenSora.ModelFolders", 14)]
    [InlineData("OpenSora.Models", 29)]
    [InlineData("OpenSora.Models.Layers", 8)]
    [InlineData("OpenSora.Runtime", 1)]
    [InlineData("OpenSora.Text", 2)]
    [InlineData("OpenSora.Weights", 5)]
    public void Public_types_are_few(string name, int count)
    {
        var types = Types().Where(type => string.Equals(type.Namespace, name, StringComparison.Ordinal)).Select(type => type.Name);
        types.Count().ShouldBe(count, string.Join(", ", types.Order(StringComparer.Ordinal)));
    }

    [Fact]
    public void The_library_has_no_other_public_types() =>
        Types().Length.ShouldBe(103, string.Join(", ", Types().GroupBy(type => type.Namespace).Select(group => $"{group.Key} {group.Count()}")));

    [Fact]
    public void The_command_line_tool_uses_public_types_only()
    {
        using var stream = File.OpenRead(typeof(OpenSora.Cli.CommandLine).Assembly.Location);
        using var file = new PEReader(stream);
        var metadata = file.GetMetadataReader();
        var used = metadata
            .TypeReferences.Select(metadata.GetTypeReference)
            .Where(type =>
                type.ResolutionScope.Kind == HandleKind.AssemblyReference
                && metadata.StringComparer.Equals(metadata.GetAssemblyReference((AssemblyReferenceHandle)type.ResolutionScope).Name, "OpenSora")
            )
            .Select(type => $"{metadata.GetString(type.Namespace)}.{metadata.GetString(type.Name)}")
            .ToList();
        used.ShouldContain(typeof(VideoGenerator).FullName);
        used.Except(Types().Select(type => type.FullName)).ShouldBeEmpty();
    }

    private static Type[] Types() => typeof(VideoGenerator).Assembly.GetExportedTypes();
}
