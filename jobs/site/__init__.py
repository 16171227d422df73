"""What a site's own tools start: ReFrame, JUBE, hpccm, EasyBuild, Spack."""
